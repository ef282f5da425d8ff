"""The server that `lab_environment` configures sends each message at once."""

import json
import subprocess
import sys

from course.teaching.lab import lab_command, lab_environment


def test_the_course_starts_jupyterlab_with_the_quick_connection(tmp_path):
    own = {name: str(tmp_path) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR")}
    shown = subprocess.run(
        [*lab_command(tmp_path, ""), "--no-browser", "--show-config-json"], env=lab_environment() | own, capture_output=True, text=True, timeout=60, check=True
    )
    config = json.loads(shown.stdout[shown.stdout.index("{") :])
    assert config["ServerApp"]["kernel_websocket_connection_class"] == "course.teaching.quick_answers.QuickConnection"


def test_the_delay_is_off_before_the_first_message(monkeypatch):
    from course.teaching import quick_answers

    calls = []
    monkeypatch.setattr(quick_answers.ZMQChannelsWebsocketConnection, "connect", lambda self: calls.append("connected"))
    connection = quick_answers.QuickConnection.__new__(quick_answers.QuickConnection)
    handler = type("Handler", (), {"set_nodelay": lambda self, value: calls.append(value)})()
    monkeypatch.setattr(quick_answers.QuickConnection, "websocket_handler", handler)
    connection.connect()
    assert calls == [True, "connected"]


def test_jupyter_server_can_load_it():
    command = "from traitlets.utils.importstring import import_item as i; i('course.teaching.quick_answers.QuickConnection')"
    subprocess.run([sys.executable, "-c", command], check=True, timeout=60)
