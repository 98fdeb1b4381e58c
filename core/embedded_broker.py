"""The embedded MQTT broker (amqtt, MQTT 3.1.1) of `millrace up`, so that a checkout has one without installing any.

It keeps sessions in memory: what waits in it is lost when it ends. Where that must not be, a Mosquitto with the
configuration in `deploy/mosquitto.conf` takes its place by MILLRACE_MQTT_URL. Like every process without accounts it
listens on the loopback address alone, and lets every user of this machine in.
"""

import asyncio
import contextlib
import signal
import socket

_HOST = "127.0.0.1"
_MOST_CONNECTIONS = 200
_LOOK_TIMEOUT_S = 1.0


def run_embedded_broker(port: int) -> None:
    """Run the broker until SIGTERM or Ctrl-C."""
    asyncio.run(_serve(port))


def is_broker_listening(host: str, port: int) -> bool:
    """Whether something accepts connections there."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=_LOOK_TIMEOUT_S):
        return True
    return False


async def _serve(port: int) -> None:
    from amqtt.broker import Broker

    config = {
        "listeners": {
            "default": {"type": "tcp", "bind": f"{_HOST}:{port}", "max_connections": _MOST_CONNECTIONS},
        },
        "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
    }
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    broker = Broker(config, loop=loop)
    await broker.start()
    await stopping.wait()
    await broker.shutdown()
