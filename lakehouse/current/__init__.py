"""Tables of now: of every row of the lake its last change, if that is no deletion."""
