"""One notification by e-mail, webhook and in-app at once, to a real mail server and a real web server in this program.

Prints:

    mail to ada@example.org: Order 17 has shipped
    webhook: Order 17 has shipped, order 17
    inbox: Order 17 has shipped
    {'email': 'delivered', 'inapp': 'delivered', 'webhook': 'delivered'}
"""

import email
import email.policy
import http.server
import json
import queue
import socket
import tempfile
import threading
from email.message import EmailMessage
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from dispatcher import NotificationService

mails: queue.Queue[EmailMessage] = queue.Queue()
hooks: queue.Queue[dict[str, Any]] = queue.Queue()


class Mailbox:
    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 -- its name
        mails.put(email.message_from_bytes(envelope.original_content or b"", policy=email.policy.default))
        return "250 taken"


class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        hooks.put(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


with socket.create_server(("127.0.0.1", 0)) as free:
    smtp_port = free.getsockname()[1]
mail_server = Controller(Mailbox(), "127.0.0.1", smtp_port)
mail_server.start()
web_server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
threading.Thread(target=web_server.serve_forever, daemon=True).start()

CONFIG = {
    "categories": {"orders": {"channels": ["email", "inapp", "webhook"]}},
    "channels": {
        "email": {
            "provider": "smtp",
            "host": "127.0.0.1",
            "port": smtp_port,
            "tls": "none",
            "sender": "Shop <no-reply@shop.example>",
        },
        # addresses of one's own network are denied unless they are named
        "webhook": {"provider": "webhook", "allow_private": ["127.0.0.0/8"], "ports": [web_server.server_port]},
    },
}

with tempfile.TemporaryDirectory() as directory, NotificationService(directory, config=CONFIG, shards=1) as service:
    hook = {"url": f"http://127.0.0.1:{web_server.server_port}/hook"}
    service.put_user("ada", {"contacts": {"email": "ada@example.org", "webhook": hook}})

    receipt = service.notify(
        user_id="ada", category="orders", title="Order 17 has shipped", body="It comes today.", payload={"order": 17}
    )

    mail = mails.get(timeout=20)
    print(f"mail to {mail['to']}: {mail['subject']}")
    data = hooks.get(timeout=20)["data"]
    print(f"webhook: {data['title']}, order {data['payload']['order']}")
    status = service.wait(receipt.id, timeout=20)
    for item in service.inbox("ada"):
        print("inbox:", item.title)
    print(dict(sorted(status.outcomes.items())))

mail_server.stop()
web_server.shutdown()
