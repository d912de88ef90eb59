"""Events of applications: a second door into the journal, and what is read back of the table `events`."""
