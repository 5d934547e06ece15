"""Small helpers that know nothing of the service: tasks, bounded files, numbers."""
