"""The static site: a validated LeaderboardTable in, a folder of pages out."""
