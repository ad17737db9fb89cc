"""Running the shop's jobs without serving anything, until SIGTERM or Ctrl-C."""

import asyncio

from .main import jobs

if __name__ == "__main__":
    asyncio.run(jobs.run())
