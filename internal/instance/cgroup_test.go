package instance

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLimitsFitCgroupVersionAndProcessors(t *testing.T) {
	v2 := "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n"
	v1 := `tmpfs /sys/fs/cgroup tmpfs rw 0 0
cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0
cgroup /sys/fs/cgroup/cpuset cgroup rw,cpuset 0 0
cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0
cgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0
`
	all := func(h hierarchy) []limit { return h.all }
	each := func(h hierarchy) []limit { return h.each }
	for _, tt := range []struct {
		what       string
		mounts     string
		processors int
		of         func(hierarchy) []limit
		want       []limit
	}{
		{"all, version 2", v2, 2, all, []limit{{"cpu.weight", "50"}, {"cpu.max", "150000 100000"}}},
		{"each, version 2", v2, 2, each, []limit{{"cpu.weight", "50"}, {"cpu.max", "100000 100000"}, {"pids.max", "512"}, {"memory.max", "536870912"}}},
		{"all, version 1", v1, 2, all, []limit{{"cpu.shares", "512"}, {"cpu.cfs_period_us", "100000"}, {"cpu.cfs_quota_us", "150000"}}},
		{"each, version 1", v1, 2, each, []limit{
			{"cpu.shares", "512"}, {"cpu.cfs_period_us", "100000"}, {"cpu.cfs_quota_us", "100000"},
			{"memory.limit_in_bytes", "536870912"}, {"memory.kmem.tcp.limit_in_bytes", "67108864"}, {"pids.max", "512"},
		}},
		{"all on one processor", v2, 1, all, []limit{{"cpu.weight", "50"}, {"cpu.max", "75000 100000"}}},
		{"each on one processor", v1, 1, each, []limit{
			{"cpu.shares", "512"}, {"cpu.cfs_period_us", "100000"}, {"cpu.cfs_quota_us", "50000"}, {"memory.limit_in_bytes", "536870912"},
			{"memory.kmem.tcp.limit_in_bytes", "67108864"}, {"pids.max", "512"},
		}},
		{"all on 64 processors", v2, 64, all, []limit{{"cpu.weight", "50"}, {"cpu.max", "4800000 100000"}}},
	} {
		var got []limit
		for _, h := range hierarchiesAmong(tt.mounts, tt.processors) {
			got = append(got, tt.of(h)...)
		}
		if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(limit{})); diff != "" {
			t.Errorf("limits for %s differ (-want +got):\n%s", tt.what, diff)
		}
	}
	mounted := func(mounts string) (dirs []string) {
		for _, h := range hierarchiesAmong(mounts, 2) {
			dirs = append(dirs, h.mount)
		}
		return dirs
	}
	if got, want := mounted(v1), []string{"/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/pids"}; !slices.Equal(got, want) {
		t.Errorf("hierarchies of version 1 with our controllers: got %v, want %v", got, want)
	}
}
