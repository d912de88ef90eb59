"""The catalog for everybody else: the Iceberg REST specification over the pointers beside the journal."""
