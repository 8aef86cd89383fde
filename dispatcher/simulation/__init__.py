"""The load simulation: a service of its own, seeded events through it, and an account of every delivery."""
