"""The network on the workstation: load, group, cut, train, export."""
