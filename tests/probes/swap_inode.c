/* Changes a file while a thread swaps it for another one and back; prints how often that worked, how often it was refused.
 *
 * Usage: swap_inode WAY CALL DIRECTORY ROUNDS
 *
 * The files are DIRECTORY/a and DIRECTORY/b. WAY is "path", where one letter of the path in memory is changed, or "fd",
 * where the descriptor is, by dup2.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

static char path[4096];
static volatile char *letter;
static int fds[2], fd, by_fd, kept;
static atomic_int done;

static void *swap(void *unused)
{
    (void)unused;
    while (!atomic_load(&done)) {
        if (by_fd) {
            dup2(fds[1], fd);
            dup2(fds[0], fd);
        } else {
            *letter = 'b';
            *letter = 'a';
        }
    }
    return NULL;
}

static long change(const char *call, int round)
{
    struct timespec times[2] = {{round, 1}, {round, 2}};
    int flags = kept | 0x40; /* FS_NODUMP_FL */
    if (!strcmp(call, "chmod"))
        return by_fd ? fchmod(fd, 0600 | round % 2) : chmod(path, 0600 | round % 2);
    if (!strcmp(call, "chown"))
        return by_fd ? fchown(fd, getuid(), getgid()) : chown(path, getuid(), getgid());
    if (!strcmp(call, "utimensat"))
        return by_fd ? futimens(fd, times) : utimensat(AT_FDCWD, path, times, 0);
    if (!strcmp(call, "setxattr"))
        return by_fd ? fsetxattr(fd, "user.x", &round, sizeof round, 0) : setxattr(path, "user.x", &round, sizeof round, 0);
    if (!strcmp(call, "truncate") && !by_fd)
        return truncate(path, round % 8);
    if (!strcmp(call, "chattr") && by_fd)
        return ioctl(fd, 0x40086602 /* FS_IOC_SETFLAGS */, &flags);
    exit(2);
}

int main(int argc, char **argv)
{
    long worked = 0, refused = 0;
    pthread_t thread;
    if (argc != 5)
        return 2;
    by_fd = !strcmp(argv[1], "fd");
    letter = path + snprintf(path, sizeof path, "%s/a", argv[3]) - 1;
    for (int i = 0; i < 2; i++, *letter = 'b')
        if ((fds[i] = open(path, O_RDONLY)) < 0)
            return 2;
    fd = dup(fds[0]);
    /* Without the others the disk's format of the file would change, which ext4 does not always support. */
    if (!strcmp(argv[2], "chattr") && ioctl(fd, 0x80086601 /* FS_IOC_GETFLAGS */, &kept))
        return 2;
    pthread_create(&thread, NULL, swap, NULL);
    for (int round = 0; round < atoi(argv[4]); round++) {
        if (change(argv[2], round) == 0)
            worked++;
        else if (errno == EACCES)
            refused++;
        else {
            perror(argv[2]);
            return 1;
        }
    }
    atomic_store(&done, 1);
    pthread_join(thread, NULL);
    printf("%ld %ld\n", worked, refused);
    return 0;
}
