"""With this folder first on PYTHONPATH, a simulated channel ends its process when it is to reach ``poison-...``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

if sys.orig_argv[1:3] == ["-m", "shards.worker"]:
    from shards.channels.simulated import SimulatedChannel
    from shards.frames import Run

    class PoisonedChannel(SimulatedChannel):
        harmless = False

        def start(self, runs: Sequence[Run], now: float) -> None:
            if any(user.user_id.startswith("poison-") for run in runs for user in run.users):
                os._exit(9)
            super().start(runs, now)

    import shards.channels.simulated

    shards.channels.simulated.SimulatedChannel = PoisonedChannel  # type: ignore[misc]  # shards.shard imports it later
