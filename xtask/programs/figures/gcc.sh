# A C file of many functions, optimised.
# needs: gcc
i=0
while [ $i -lt 150 ]; do
    cat <<P
struct s$i { int a[8]; struct s$i *next; };
static unsigned f$i(struct s$i *p, unsigned n) {
    unsigned h = $i;
    for (unsigned i = 0; i < n; i++) {
        switch ((h ^ i) % 7) {
        case 0: h += p->a[i % 8]; break;
        case 1: h ^= h << 5; break;
        case 2: if (p->next) p = p->next; break;
        case 3: for (int j = 0; j < 8; j++) p->a[j] += h * j; break;
        default: h = h * 31 + i;
        }
    }
    return h;
}
unsigned g$i(struct s$i *p) { return f$i(p, 100) + f$i(p->next, $i); }
P
    i=$((i + 1))
done > many.c
exec gcc -O2 -c many.c -o many.o
