"""The parent's half of EvoDB: what children stream here becomes rows of Iceberg tables, exactly once."""
