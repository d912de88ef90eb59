"""The parent over HTTP: what probes, operators and children without a socket ask for."""
