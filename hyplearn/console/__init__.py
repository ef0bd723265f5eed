"""What commands print: tables, progress of many jobs, counts."""
