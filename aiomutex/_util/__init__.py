"""Small helpers that know nothing of the service: tasks, bounded files, checks of arguments."""
