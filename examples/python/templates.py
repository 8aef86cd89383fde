"""Texts from templates: per channel and language, with a layout; and what an error in one looks like.

Ada has chosen French as spoken in Canada, of which French is the nearest that there is.

Prints:

    Ada reads: Commande 17 expédiée
    Bob reads: Order 18 has shipped
    Eve's is dead: template 'order-shipped', title, line 1: 'order' is undefined
    refused: bad_value ...: template 'broken', text, line 1: ...
"""

import tempfile

from dispatcher import DispatcherError, NotificationService

PARTS = {
    "title": "Order {{ order }} has shipped",
    "text": "Hello {{ name }}, it will be with you {{ day }}.",
    "fr/title": "Commande {{ order }} expédiée",
    "email.html": '{% extends "layouts/mail.html" %}{% block main %}It comes <b>{{ day }}</b>.{% endblock %}',
}
LAYOUT = {"mail.html": "<body><h1>Our shop</h1>{% block main %}{% endblock %}</body>"}

with tempfile.TemporaryDirectory() as directory, NotificationService(directory, shards=1) as service:
    service.register_template("layouts", LAYOUT)
    service.register_template("order-shipped", PARTS)
    service.put_user("ada", {"locale": "fr-CA"})

    for user, order in (("ada", 17), ("bob", 18)):
        payload = {"order": order, "name": user.title(), "day": "today"}
        receipt = service.notify(user_id=user, template="order-shipped", payload=payload)
        service.wait(receipt.id, timeout=20)
        for item in service.inbox(user):
            print(f"{user.title()} reads: {item.title}")

    incomplete = service.notify(user_id="eve", template="order-shipped", payload={"name": "Eve", "day": "today"})
    (delivery,) = service.wait(incomplete.id, timeout=20).deliveries
    print(f"Eve's is {delivery.outcome}: {delivery.last_error}")

    try:
        service.register_template("broken", {"text": "Hello {{ name"})
    except DispatcherError as error:
        print("refused:", error)
