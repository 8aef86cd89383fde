"""Every structure that crosses a socket, and how it is encoded.

Two families live here: the public one (``notification``, ``requests``, ``errors``), which is a contract with programs
in other languages, and the internal one, which only the processes of one installation exchange.
"""
