"""JupyterLab's answers without the wait that TCP adds to them; switched on by `jupyter_server_config.json` beside this file.

A kernel answers a click with two messages, "busy" and the panel's new page. The server writes both to one socket, and
by default the system holds the second back until the browser has acknowledged the first, which browsers delay by
about 40 ms (Nagle's algorithm, RFC 896, meeting delayed acknowledgements, RFC 1122). `python -m benchmarks latency`
shows the difference: about half of the time from click to paint was this wait.
"""

from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection


class QuickConnection(ZMQChannelsWebsocketConnection):
    """Jupyter's connection between browser and kernel, sending each message at once."""

    def connect(self):
        self.websocket_handler.set_nodelay(True)
        return super().connect()
