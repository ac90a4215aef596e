# What node and perl do with strings, tables and objects.
# needs: node perl
node -e '
const m = new Map(); for (let i = 0; i < 100000; i++) m.set("k" + i, { i, s: "v".repeat(i % 40) });
let n = 0; for (const v of m.values()) n += v.s.length;
const b = []; for (let i = 0; i < 200; i++) b.push(Buffer.alloc(10000, i)); console.log(n, b.reduce((a, x) => a + x[9999], 0));
console.log(JSON.parse(JSON.stringify([...m].slice(0, 1000))).length);'
perl -e '
my %h; $h{$_ % 7919} .= "x" x ($_ % 30) for 1 .. 200000; my $n = 0; $n += length for values %h;
my @a = map { [ $_, "y" x ($_ % 100) ] } 1 .. 50000; my $s = join ",", map { $_->[1] } sort { $b->[0] <=> $a->[0] } @a;
print "$n ", length $s, "\n"; $s =~ s/y+/z/g; print length $s, "\n";'
