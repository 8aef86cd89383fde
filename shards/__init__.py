"""The data plane: one shard's state and work. Nothing here imports ``dispatcher``."""
