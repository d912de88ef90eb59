import dataclasses

from lakehouse.conf import Settings, variable
from lakehouse.misspelt import sentences

KNOWN = [variable(row.name) for row in dataclasses.fields(Settings)]


def test_a_misspelt_setting_is_named_with_the_one_that_was_meant():
    said = sentences({"EVODB_LEASE_SM": "5000", "EVODB_WAREHOSE": "s3://lake", "EVODB_UP_PORT": "1"}, KNOWN)
    assert said == [
        "EVODB_LEASE_SM is no setting and counts for nothing; did you mean EVODB_LEASE_MS?",
        "EVODB_WAREHOSE is no setting and counts for nothing; did you mean EVODB_WAREHOUSE?",
    ]


def test_variables_of_others_and_those_of_a_child_and_of_a_drill_are_left_alone():
    names = ["LEASE_SM", "EVODB_TOKEN", "EVODB_PARENT", "EVODB_FAILPOINTS", "EVODB_CLOCK_SHIFT_MS", "EVODB_UP_PIPE"]
    assert sentences(dict.fromkeys([*names, "EVODB_TEST_DATABASE", "EVODB_CAPTURE"], "x"), KNOWN) == []
