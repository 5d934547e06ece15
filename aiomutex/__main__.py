"""``python -m aiomutex`` is the command line."""

from aiomutex.cli import main

if __name__ == "__main__":
    main()
