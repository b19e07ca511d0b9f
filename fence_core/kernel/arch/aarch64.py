"""Call numbers of aarch64, but for those that all machines share.

Source: include/uapi/asm-generic/unistd.h, Linux 6.18.
"""

from __future__ import annotations

# AUDIT_ARCH_AARCH64: the ELF machine, 64 bits, little-endian. Source: include/uapi/linux/audit.h.
AUDIT_ARCH = 0xC00000B7
# No second calling convention behind the same audit architecture (32-bit ARM has its own).
X32_BIT: int | None = None

CALLS = {
    0: "io_setup io_destroy io_submit io_cancel io_getevents setxattr lsetxattr fsetxattr getxattr lgetxattr",
    10: "fgetxattr listxattr llistxattr flistxattr removexattr lremovexattr fremovexattr getcwd lookup_dcookie",
    19: "eventfd2 epoll_create1 epoll_ctl epoll_pwait dup dup3 fcntl inotify_init1 inotify_add_watch",
    28: "inotify_rm_watch ioctl ioprio_set ioprio_get flock mknodat mkdirat unlinkat symlinkat linkat renameat",
    39: "umount2 mount pivot_root nfsservctl statfs fstatfs truncate ftruncate fallocate faccessat chdir fchdir",
    51: "chroot fchmod fchmodat fchownat fchown openat close vhangup pipe2 quotactl getdents64 lseek read write",
    65: "readv writev pread64 pwrite64 preadv pwritev sendfile pselect6 ppoll signalfd4 vmsplice splice tee",
    78: "readlinkat newfstatat fstat sync fsync fdatasync sync_file_range timerfd_create timerfd_settime",
    87: "timerfd_gettime utimensat acct capget capset personality exit exit_group waitid set_tid_address unshare",
    98: "futex set_robust_list get_robust_list nanosleep getitimer setitimer kexec_load init_module delete_module",
    107: "timer_create timer_gettime timer_getoverrun timer_settime timer_delete clock_settime clock_gettime",
    114: "clock_getres clock_nanosleep syslog ptrace sched_setparam sched_setscheduler sched_getscheduler",
    121: "sched_getparam sched_setaffinity sched_getaffinity sched_yield sched_get_priority_max",
    126: "sched_get_priority_min sched_rr_get_interval restart_syscall kill tkill tgkill sigaltstack rt_sigsuspend",
    134: "rt_sigaction rt_sigprocmask rt_sigpending rt_sigtimedwait rt_sigqueueinfo rt_sigreturn setpriority",
    141: "getpriority reboot setregid setgid setreuid setuid setresuid getresuid setresgid getresgid setfsuid",
    152: "setfsgid times setpgid getpgid getsid setsid getgroups setgroups uname sethostname setdomainname",
    163: "getrlimit setrlimit getrusage umask prctl getcpu gettimeofday settimeofday adjtimex getpid getppid",
    174: "getuid geteuid getgid getegid gettid sysinfo mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify",
    185: "mq_getsetattr msgget msgctl msgrcv msgsnd semget semctl semtimedop semop shmget shmctl shmat shmdt",
    198: "socket socketpair bind listen accept connect getsockname getpeername sendto recvfrom setsockopt",
    209: "getsockopt shutdown sendmsg recvmsg readahead brk munmap mremap add_key request_key keyctl clone execve",
    222: "mmap fadvise64 swapon swapoff mprotect msync mlock munlock mlockall munlockall mincore madvise",
    234: "remap_file_pages mbind get_mempolicy set_mempolicy migrate_pages move_pages rt_tgsigqueueinfo",
    241: "perf_event_open accept4 recvmmsg",
    260: "wait4 prlimit64 fanotify_init fanotify_mark name_to_handle_at open_by_handle_at clock_adjtime syncfs",
    268: "setns sendmmsg process_vm_readv process_vm_writev kcmp finit_module sched_setattr sched_getattr",
    276: "renameat2 seccomp getrandom memfd_create bpf execveat userfaultfd membarrier mlock2 copy_file_range",
    286: "preadv2 pwritev2 pkey_mprotect pkey_alloc pkey_free statx io_pgetevents rseq kexec_file_load",
}
"""By the number of the first: calls in the order of their numbers."""
