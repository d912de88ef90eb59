import pytest

from rpc.config import ChildConfig
from rpc.create import create_rpc_client
from rpc.handlers import Handlers

URL = "ws://127.0.0.1:9/ws"


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


async def test_the_readme_form_by_name(tmp_path):
    client = create_rpc_client(
        parent_url=URL,
        child_id="shop/1",
        batching={"max_size": 10, "max_delay_ms": 5, "max_bytes": 1000},
        dedup={"window_ms": 1, "max_entries_per_source": 2, "max_sources": 3},
    )
    config = client.config
    assert (config.max_batch_size, config.batch_timeout_ms, config.max_batch_bytes) == (10, 5, 1000)
    [outbox] = list(tmp_path.glob("evodb-outbox-*.sqlite3"))
    assert outbox.name.startswith("evodb-outbox-shop_1-")
    await client.close()


async def test_the_positional_form_keeps_the_defaults():
    client = create_rpc_client(URL, "shop-1")
    assert client.config == ChildConfig()
    await client.close()


async def test_one_of_the_readmes_numbers_brings_its_others():
    client = create_rpc_client(URL, "shop-1", batching={"max_bytes": 5000}, config=ChildConfig(max_retries=9))
    config = client.config
    assert (config.max_batch_size, config.batch_timeout_ms, config.max_batch_bytes, config.max_retries) == (
        100,
        50,
        5000,
        9,
    )
    await client.close()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"batching": {"maxSize": 1}}, "batching has 'maxSize', known are max_size, max_delay_ms, max_bytes"),
        ({"dedup": {"window": 1}}, "dedup has 'window', known are window_ms"),
        ({"on_dead_leter": print}, "there is no handler 'on_dead_leter', known are on_state_change, on_dead_letter"),
        ({"batchign": {}}, "has no 'batchign', known are batching, chance, config, dedup, handlers"),
        ({"encoding": "arrow"}, r"a field of the config: config=ChildConfig\(encoding=...\)"),
    ],
)
async def test_a_name_nobody_knows_is_said(options, complaint, tmp_path):
    with pytest.raises(TypeError, match=complaint):
        create_rpc_client(URL, "shop-1", **options)
    assert not list(tmp_path.iterdir())


async def test_a_number_that_cannot_work_is_said():
    with pytest.raises(ValueError, match="max_batch_size is 0, wanted a whole number from 1 to"):
        create_rpc_client(URL, "shop-1", batching={"max_size": 0})
    with pytest.raises(ValueError, match="window_ms is 0"):
        create_rpc_client(URL, "shop-1", dedup={"window_ms": 0})


async def test_handlers_may_be_given_by_name():
    heard = []
    config = ChildConfig(max_reconnect_attempts=1)
    client = create_rpc_client(URL, "shop-1", on_state_change=heard.append, config=config)
    connecting = client.connect()
    with pytest.raises(Exception, match="cannot reach"):
        await connecting
    assert [str(state) for state in heard] == ["connecting", "failed"]
    await client.close()


async def test_children_whose_names_look_alike_as_files_have_outboxes_of_their_own():
    clients = [create_rpc_client(URL, name) for name in ("shop/1", "shop_1", "shop 1")]
    assert len({client.outbox.path.name for client in clients}) == 3
    for client in clients:
        await client.close()


async def test_a_child_whose_name_is_longer_than_a_file_name_may_be_has_an_outbox_too(tmp_path):
    for name in ("x" * 250, "x" * 251, "x" * 226):
        await create_rpc_client(URL, name).close()
    assert sorted(len(path.name.partition("outbox-")[2]) for path in tmp_path.glob("*.sqlite3")) == [117, 117, 234]


async def test_handlers_given_in_two_ways_are_refused():
    with pytest.raises(TypeError, match="handlers and on_"):
        create_rpc_client(URL, "shop-1", handlers=Handlers(), on_pause=print)
