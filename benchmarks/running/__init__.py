"""Starting servers and measuring them: arms, processes, cores, rounds, the machine."""
