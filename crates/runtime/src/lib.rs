//! Clock, random numbers, tasks, shutdown and byte budgets: the only door to the outside that is not a file or a socket.
