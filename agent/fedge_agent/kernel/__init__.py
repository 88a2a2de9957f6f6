"""The kernel side of the agent: loads the BPF programs, reads their maps, proves that they guard."""
