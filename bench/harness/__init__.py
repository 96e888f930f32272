"""What bench/run is made of: servers, the client, workloads, the table."""
