"""The commands of `cloudq`, a file for each command or group; a large group has a second one."""
