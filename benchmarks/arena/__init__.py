"""The arena: every method in every task, and the leaderboard (`langcell benchmark run`)."""
