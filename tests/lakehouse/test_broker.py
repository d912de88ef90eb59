"""A broker that is away is a sentence for whoever wanted a worker to be told."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.contrib.messages import get_messages
from django.test import Client
from kombu.exceptions import OperationalError

from lakehouse import broker
from lakehouse.admin import schemas, waiting
from lakehouse.models import DriftField, FallbackBatch
from tests.builders import NOW_MS, parent
from tests.lakehouse.test_admin import url

SAID = "no worker can be asked, for the broker is away or takes nothing (nobody listens)"


@pytest.mark.parametrize("error", [OperationalError("nobody\nlistens"), OSError("nobody listens")])
def test_what_a_broker_says_is_one_line(error: Exception) -> None:
    with pytest.raises(broker.BrokerAway) as told, broker.asked():
        raise error
    assert str(told.value) == SAID


def test_a_mistake_of_ours_is_not_the_brokers() -> None:
    with pytest.raises(ValueError, match="ours"), broker.asked():
        raise ValueError("ours")


@pytest.mark.django_db
@pytest.mark.parametrize("action", ["promote", "recover_now"])
def test_an_action_of_the_admin_says_that_the_broker_is_away(
    client: Client, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    def away(*_: Any) -> None:
        raise OperationalError("nobody listens")

    monkeypatch.setattr(schemas.promote_field, "delay", away)
    monkeypatch.setattr(waiting.recover_fallback, "delay", away)
    client.force_login(get_user_model().objects.create(username="operator", is_staff=True, is_superuser=True))
    home = parent()
    rows = {
        "promote": DriftField(parent=home, table="orders", field="x", first_ms=NOW_MS, last_ms=NOW_MS),
        "recover_now": FallbackBatch(parent=home, table="orders", rows=1, payload=b"x", created_ms=NOW_MS),
    }
    row = rows[action]
    row.save()
    heard = client.post(url(type(row), "changelist"), {"action": action, "_selected_action": row.pk})
    assert heard.status_code == 302
    [message] = get_messages(heard.wsgi_request)
    assert (message.level_tag, str(message).partition(";")[0]) == ("error", SAID)
