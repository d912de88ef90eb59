"""How much of us a child may use: connections, messages, bytes, and what happens when everybody wants more."""
