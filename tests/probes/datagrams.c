/* Sends many datagrams to UNIX sockets by single calls of sendmmsg(2), and reads some of them.
 *
 * Usage: datagrams READ COUNT PATH...
 *
 * One message goes to each path, COUNT to the last one; where READ is a path, a thread reads COUNT messages of a socket
 * bound there meanwhile. Prints how many were sent, errno, and the sum of the lengths that were written back.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { MOST = 1024 };

static int reader = -1, count;

static void *reads(void *unused)
{
    char rest[64];
    int wrong = 0, number;

    for (int i = 0; i < count; i++) {
        ssize_t size = recv(reader, rest, sizeof(rest) - 1, 0);
        rest[size > 0 ? size : 0] = 0;
        if (sscanf(rest, "message %d", &number) != 1 || number != i)
            wrong++;
    }
    printf("read %d wrong %d\n", count, wrong);
    return unused;
}

int main(int argc, char **argv)
{
    static struct sockaddr_un addresses[MOST];
    static struct iovec vectors[MOST][2];
    static struct mmsghdr messages[MOST];
    static char numbers[MOST][16];
    int given = argc - 3, all, fd, sent, lengths = 0;
    pthread_t thread;

    if (given < 1 || given > MOST)
        return 2;
    count = atoi(argv[2]);
    all = given - 1 + count;
    if (all > MOST)
        return 2;
    for (int i = 0; i < all; i++) {
        const char *path = argv[3 + (i < given ? i : given - 1)];
        int number = i < given - 1 ? 0 : i - (given - 1);

        addresses[i].sun_family = AF_UNIX;
        strncpy(addresses[i].sun_path, path, sizeof(addresses[i].sun_path) - 1);
        vectors[i][0].iov_base = "message ";
        vectors[i][0].iov_len = 8;
        vectors[i][1].iov_base = numbers[i];
        vectors[i][1].iov_len = snprintf(numbers[i], sizeof(numbers[i]), "%d", number);
        messages[i].msg_hdr.msg_name = &addresses[i];
        messages[i].msg_hdr.msg_namelen = sizeof(addresses[i]);
        messages[i].msg_hdr.msg_iov = vectors[i];
        messages[i].msg_hdr.msg_iovlen = 2;
    }
    if (strcmp(argv[1], "-")) {
        struct sockaddr_un own = {.sun_family = AF_UNIX};

        strncpy(own.sun_path, argv[1], sizeof(own.sun_path) - 1);
        reader = socket(AF_UNIX, SOCK_DGRAM, 0);
        if (bind(reader, (struct sockaddr *)&own, sizeof(own)) || pthread_create(&thread, NULL, reads, NULL))
            return 2;
    }
    fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    errno = 0;
    sent = sendmmsg(fd, messages, all, 0);
    if (sent < 0)
        printf("errno %d\n", errno);
    for (int i = 0; i < all; i++)
        lengths += messages[i].msg_len;
    printf("sent %d lengths %d\n", sent, lengths);
    fflush(stdout);
    if (reader >= 0 && sent == all)
        pthread_join(thread, NULL);
    return 0;
}
