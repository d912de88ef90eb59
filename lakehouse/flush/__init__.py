"""From waiting batches to rows in tables: claim, shred, stage, swap."""
