"""The Iceberg catalog: table pointers are rows next to the journal, so that a flush commits both at once."""
