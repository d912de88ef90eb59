"""The child's half of EvoDB: protocol, outbox, client and capture. No Django in here."""
