"""The shells that speak to children: who may come in, what they say, what they are told."""
