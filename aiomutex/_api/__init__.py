"""The service's API without any I/O: requests as values, responses as values or errors, and the rules of both."""
