/* Makes calls that change files while a thread swaps what they are given, and counts how they end.
 *
 * Usage: races SWAP ROUNDS WRITABLE OUTSIDE
 *
 * The two directories differ in one character; the first has a directory `d`, the second too, with `t` and `u` in both.
 * SWAP: string     the path in memory: one character of it
 *       link       a symbolic link on the way, exchanged with another
 *       parent     the directory itself, exchanged with a symbolic link
 *       descriptor the descriptor that the call is given, by dup2
 *
 * Each round makes the next call of the table; there are more rounds, up to twenty times as many, until each call has
 * both succeeded and been refused; what has succeeded inside is undone by paths that nobody swaps. One line
 * is written for each call: its name, how often it succeeded, was refused with EACCES, and ended otherwise, and the last
 * error number of those.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <unistd.h>

enum { LONGEST = 96 };

static atomic_int done;
static const char *writable, *outside;
static char inside_t[LONGEST], inside_v[LONGEST], inside_w[LONGEST]; /* never swapped */
static int home; /* the directory that is meant to be changed, by whatever name */
static char links[2][LONGEST];
static int directory = AT_FDCWD, held = -1; /* what the calls are given */
static int directories[2], files[2];
static char n[LONGEST], t[LONGEST], u[LONGEST]; /* paths, which may be swapped */
static size_t place;                            /* of the character that differs */
static char letters[2];
static struct sockaddr_un bound = {.sun_family = AF_UNIX};

static void *swap_string(void *unused)
{
    for (int turn = 0; !done; turn ^= 1)
        ((volatile char *)n)[place] = ((volatile char *)t)[place] = ((volatile char *)u)[place] =
            ((volatile char *)bound.sun_path)[place] = letters[turn];
    return unused;
}

static void *swap_names(void *unused)
{
    while (!done)
        syscall(SYS_renameat2, AT_FDCWD, links[0], AT_FDCWD, links[1], RENAME_EXCHANGE);
    return unused;
}

static void *swap_descriptor(void *unused)
{
    for (int turn = 0; !done; turn ^= 1) {
        dup2(directories[turn], directory);
        dup2(files[turn], held);
    }
    return unused;
}

static int made(int fd)
{
    return fd < 0 ? -1 : close(fd);
}

static const struct timespec times[2] = {{5, 6}, {7, 8}};
static uid_t owner = -1;
static gid_t group = -1;

/* Each makes one call that may be raced, and returns what it returned. */
static int do_create(void) { return made(openat(directory, n, O_WRONLY | O_CREAT | O_NONBLOCK, 0600)); }
static int do_open(void) { return made(openat(directory, t, O_WRONLY | O_NONBLOCK)); }
static int do_cut(void) { return made(openat(directory, t, O_RDONLY | O_TRUNC)); }
static int do_unnamed(void)
{
    char path[LONGEST];
    int fd, result;

    fd = openat(AT_FDCWD, inside_w, O_RDONLY); /* something to give a name to that is not swapped */
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    result = linkat(AT_FDCWD, path, directory, n, AT_SYMLINK_FOLLOW);
    if (fd >= 0) {
        int kept = errno;
        close(fd);
        errno = kept;
    }
    return result;
}
static int do_truncate(void) { return truncate(t, 3); }
static int do_chmod(void) { return fchmodat(directory, t, 0600, 0); }
static int do_chown(void) { return fchownat(directory, t, owner, group, 0); }
static int do_utime(void) { return utimensat(directory, t, times, 0); }
static int do_setxattr(void) { return setxattr(t, "user.race", "x", 1, 0); }
static int do_mkdir(void) { return mkdirat(directory, n, 0700); }
static int do_mknod(void) { return mknodat(directory, n, S_IFIFO | 0600, 0); }
static int do_unlink(void) { return unlinkat(directory, u, 0); }
static int do_rename_out(void) { return renameat(directory, u, AT_FDCWD, inside_v); }
static int do_rename_in(void) { return renameat(AT_FDCWD, inside_w, directory, n); }
static int do_link_in(void) { return linkat(AT_FDCWD, inside_t, directory, n, 0); }
static int do_link_out(void) { return linkat(directory, t, AT_FDCWD, inside_v, 0); }
static int do_symlink(void) { return symlinkat("anything", directory, n); }
static int do_bind(void)
{
    int fd = socket(AF_UNIX, SOCK_STREAM, 0), result, kept;

    result = bind(fd, (struct sockaddr *)&bound, sizeof(bound));
    kept = errno;
    close(fd);
    errno = kept;
    return result;
}
static int do_fchmod(void) { return fchmod(held, 0600); }
static int do_fchown(void) { return fchown(held, owner, group); }
static int do_futimens(void) { return futimens(held, times); }
static int do_fsetxattr(void) { return fsetxattr(held, "user.race", "x", 1, 0); }
static int kept_flags; /* those it has: ext4 wants some kept, and tmpfs does not know them */
static int do_flags(void)
{
    int flags = FS_NODUMP_FL | kept_flags;
    return ioctl(held, FS_IOC_SETFLAGS, &flags);
}
static int do_reopen(void)
{
    char path[LONGEST];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", held);
    return made(open(path, O_WRONLY));
}

/* What undoes a success, by paths that are never swapped. */
static void remove_n(void) { unlinkat(home, "n", 0); }
static void remove_directory(void) { unlinkat(home, "n", AT_REMOVEDIR); }
static void remove_v(void) { unlink(inside_v); }
static void restore_u(void) { close(openat(home, "u", O_WRONLY | O_CREAT | O_NONBLOCK, 0600)); }
static void rename_back(void) { renameat(AT_FDCWD, inside_v, home, "u"); }
static void rename_home(void) { renameat(home, "n", AT_FDCWD, inside_w); }

enum takes { EITHER, PATH, HELD };

static struct call {
    const char *name;
    enum takes takes; /* a path only, a descriptor only, or a path relative to one */
    int (*make)(void);
    void (*undo)(void);
    long succeeded, refused, other;
    int error;
} calls[] = {
    {"create", EITHER, do_create, remove_n},
    {"open", EITHER, do_open, NULL},
    {"cut", EITHER, do_cut, NULL},
    {"truncate", PATH, do_truncate, NULL},
    {"chmod", EITHER, do_chmod, NULL},
    {"chown", EITHER, do_chown, NULL},
    {"utime", EITHER, do_utime, NULL},
    {"setxattr", PATH, do_setxattr, NULL},
    {"mkdir", EITHER, do_mkdir, remove_directory},
    {"mknod", EITHER, do_mknod, remove_n},
    {"unlink", EITHER, do_unlink, restore_u},
    {"rename-out", EITHER, do_rename_out, rename_back},
    {"rename-in", EITHER, do_rename_in, rename_home},
    {"link-in", EITHER, do_link_in, remove_n},
    {"link-out", EITHER, do_link_out, remove_v},
    {"link-held", EITHER, do_unnamed, remove_n},
    {"symlink", EITHER, do_symlink, remove_n},
    {"bind", PATH, do_bind, remove_n},
    {"fchmod", HELD, do_fchmod, NULL},
    {"fchown", HELD, do_fchown, NULL},
    {"futimens", HELD, do_futimens, NULL},
    {"fsetxattr", HELD, do_fsetxattr, NULL},
    {"flags", HELD, do_flags, NULL},
    {"reopen", HELD, do_reopen, NULL},
};

enum { CALLS = sizeof(calls) / sizeof(*calls) };

static void spell(char *path, const char *format, const char *first, const char *second)
{
    if (snprintf(path, LONGEST, format, first, second) >= LONGEST) {
        fprintf(stderr, "too long: %s\n", path);
        exit(2);
    }
}

static int opened(const char *base, const char *name, int flags)
{
    char path[LONGEST];
    int fd;

    spell(path, "%s/d%s", base, name);
    fd = open(path, flags);
    if (fd < 0) {
        perror(path);
        exit(2);
    }
    return fd;
}

static void given(const char *start)
{
    spell(n, "%s%s", start, "n");
    spell(t, "%s%s", start, "t");
    spell(u, "%s%s", start, "u");
    memcpy(bound.sun_path, n, sizeof(n));
}

/* Whether a call has not come to one of its ends yet: the other thread may get no processor for long. */
static int one_sided(void)
{
    for (struct call *call = calls; call < calls + CALLS; ++call)
        if (call->succeeded + call->refused + call->other && !(call->succeeded && call->refused))
            return 1;
    return 0;
}

static void must(int result, const char *what)
{
    if (result) {
        perror(what);
        exit(2);
    }
}

int main(int argc, char **argv)
{
    void *(*swapper)(void *) = swap_names;
    const char *swap = argv[1];
    char start[LONGEST];
    pthread_t thread;
    long rounds, next = 0;

    if (argc != 5)
        return 2;
    rounds = atol(argv[2]);
    writable = argv[3];
    outside = argv[4];
    if (geteuid() == 0)
        owner = group = 1234;
    home = opened(writable, "", O_RDONLY | O_DIRECTORY);
    spell(inside_t, "%s/d/%s", writable, "t");
    spell(inside_v, "%s/d/%s", writable, "v");
    spell(inside_w, "%s/d/%s", writable, "w");
    spell(start, "%s/d/%s", writable, "");
    if (!strcmp(swap, "string")) {
        given(start);
        while (writable[place] == outside[place])
            ++place;
        letters[0] = writable[place];
        letters[1] = outside[place];
        swapper = swap_string;
    } else if (!strcmp(swap, "link")) {
        char target[LONGEST];
        spell(links[0], "%s/%s", writable, "one");
        spell(links[1], "%s/%s", writable, "two");
        spell(target, "%s/%s", writable, "d");
        must(symlink(target, links[0]), links[0]);
        spell(target, "%s/%s", outside, "d");
        must(symlink(target, links[1]), links[1]);
        spell(start, "%s%s", links[0], "/");
        given(start);
    } else if (!strcmp(swap, "parent")) {
        char target[LONGEST];
        spell(links[0], "%s/%s", writable, "parent");
        spell(links[1], "%s/%s", writable, "two");
        must(mkdir(links[0], 0700), links[0]);
        home = open(links[0], O_RDONLY | O_DIRECTORY);
        must(close(openat(home, "t", O_WRONLY | O_CREAT, 0600)), "t");
        must(close(openat(home, "u", O_WRONLY | O_CREAT, 0600)), "u");
        spell(target, "%s/%s", outside, "d");
        must(symlink(target, links[1]), links[1]);
        spell(start, "%s%s", links[0], "/");
        given(start);
    } else {
        for (int side = 0; side < 2; ++side) {
            directories[side] = opened(side ? outside : writable, "", O_RDONLY | O_DIRECTORY);
            files[side] = opened(side ? outside : writable, "/t", O_RDONLY);
        }
        directory = dup(directories[0]);
        held = dup(files[0]);
        must(ioctl(held, FS_IOC_GETFLAGS, &kept_flags), "FS_IOC_GETFLAGS");
        given("");
        swapper = swap_descriptor;
    }
    must(pthread_create(&thread, NULL, swapper, NULL), "pthread_create");
    for (long round = 0; round < rounds || (one_sided() && round < 20 * rounds); ++round) {
        struct call *call;
        do
            call = &calls[next++ % CALLS];
        while (call->takes == (swapper == swap_descriptor ? PATH : HELD));
        if (!call->make()) {
            ++call->succeeded;
            if (call->undo)
                call->undo();
        } else if (errno == EACCES) {
            ++call->refused;
        } else {
            ++call->other;
            call->error = errno;
        }
    }
    done = 1;
    pthread_join(thread, NULL);
    for (struct call *call = calls; call < calls + CALLS; ++call)
        if (call->succeeded + call->refused + call->other)
            printf("%s %ld %ld %ld %d\n", call->name, call->succeeded, call->refused, call->other, call->error);
    return 0;
}
