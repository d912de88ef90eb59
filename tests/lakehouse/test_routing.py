import asyncio

import pytest
from asgiref.compatibility import is_double_callable
from channels.testing import ApplicationCommunicator

from evodb_site.asgi import application
from lakehouse import routing


@pytest.mark.parametrize(
    ("path", "parent"),
    [("/ws", None), ("/ws/", None), ("ws", None), ("/ws/shop", "shop"), ("/ws/shop/", "shop")],
)
def test_children_knock_at_a_parent_or_at_none(path, parent):
    assert routing.PATH.fullmatch(path)["parent"] == parent


@pytest.mark.parametrize("path", ["/", "/wss", "/ws/a/b", "/ws/../x", "/ws\n", "/x/ws", ""])
async def test_any_other_path_is_refused(path):
    child = ApplicationCommunicator(application, {"type": "websocket", "path": path, "headers": []})
    await child.send_input({"type": "websocket.connect"})
    assert (await child.receive_output(5))["type"] == "websocket.close"
    await child.wait(5)


async def test_a_house_below_a_path_is_found_there():
    scope = {"type": "websocket", "path": "/evodb/elsewhere", "root_path": "/evodb", "headers": []}
    child = ApplicationCommunicator(application, scope)
    await child.send_input({"type": "websocket.connect"})
    assert (await child.receive_output(5))["type"] == "websocket.close"
    found = routing.websocket(scope | {"path": "/evodb/ws"}, None, None)
    assert found.__qualname__ == "ChildConsumer.__call__"
    found.close()
    await child.wait(5)


def test_servers_take_the_application_for_a_coroutine_function():
    assert not is_double_callable(application)
    assert asyncio.iscoroutinefunction(application)
