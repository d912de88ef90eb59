"""The dialect of DoSQL's integration guide: the same batches and answers as @evodb/rpc, under other names, as JSON."""
