"""The counters: what was accepted, what became of it on each channel, how long it took; and as Prometheus reads them.

Prints:

    accepted 100, planned 200, pending 0, every delivery accounted for: True
    inapp   delivered 100  dead   0  attempts 100
    sms     delivered  71  dead  29  attempts 145
    half of them within ... ms
    notification_deliveries_total{channel="inapp",outcome="delivered"} 100
    notification_deliveries_total{channel="sms",outcome="delivered"} 71
    notification_deliveries_total{channel="sms",outcome="dead"} 29
"""

import tempfile
import time

from dispatcher import NotificationService

CONFIG = {
    "retry": {"max_retries": 1, "base": "10ms"},
    "channels": {"sms": {"provider": "simulated", "failure_rate": 0.5, "seed": 7}},
}

with tempfile.TemporaryDirectory() as directory, NotificationService(directory, config=CONFIG, shards=2) as service:
    service.batch_notify(
        {
            "user_id": f"user-{number}",
            "title": "Hello",
            "channels": ["inapp", "sms"],
            "idempotency_key": f"hello-{number}",  # which with the seed decides the simulated failures
        }
        for number in range(100)
    )
    while (stats := service.metrics())["pending"]:
        time.sleep(0.05)

    print(f"accepted {stats['accepted']}, planned {stats['planned']}, pending {stats['pending']},", end=" ")
    print("every delivery accounted for:", stats["conserved"])
    for name in ("inapp", "sms"):
        channel = stats["channels"][name]
        delivered, dead = channel["outcomes"]["delivered"], channel["outcomes"]["dead"]
        print(f"{name:7} delivered {delivered:3}  dead {dead:3}  attempts {channel['attempts']:3}")
    print("half of them within", stats["latency_ms"]["p50"], "ms")

    for name, channel in sorted(stats["channels"].items()):
        for outcome, count in channel["outcomes"].items():
            if count:
                print(f'notification_deliveries_total{{channel="{name}",outcome="{outcome}"}} {count}')
