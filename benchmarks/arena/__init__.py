"""The arena: run every method on every task and make a leaderboard (`langcell benchmark run`)."""
