/* Connects to an IPv4 address and port and prints the error number, or what the server says.
 *
 * Linked statically: no library of the system takes part, so nothing but the kernel can stand in its way.
 * Usage: static_connect ADDRESS PORT
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    char said[256];
    ssize_t size;
    int fd;

    if (argc != 3 || inet_pton(AF_INET, argv[1], &address.sin_addr) != 1)
        return 2;
    address.sin_port = htons(atoi(argv[2]));
    fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0) {
        printf("errno %d\n", errno);
        return 1;
    }
    size = read(fd, said, sizeof(said));
    printf("%.*s", size > 0 ? (int)size : 0, said);
    return 0;
}
