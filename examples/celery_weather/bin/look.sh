#!/bin/sh
# What those who run the archive type.
set -e
celery -A weather inspect ping
celery -A weather status
celery -A weather inspect registered | grep weather.almanac
celery -A weather call weather.archive.tasks.double -a '[21]' --queue weather
