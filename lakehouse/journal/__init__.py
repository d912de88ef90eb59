"""The promise: what is acked is durable, once, and bounded."""
