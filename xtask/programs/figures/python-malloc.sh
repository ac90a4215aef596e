# The same, with every object from malloc.
# needs: python3
export PYTHONMALLOC=malloc
. "${0%/*}/python.sh"
