"""Number formats: from real numbers to the few that a format can express, and back. Plain functions of arrays."""
