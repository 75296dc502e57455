/* As much of a kernel's <sys/param.h> as a port of IPKDB needs. */
typedef unsigned char	u_char;
typedef unsigned char	u_int8_t;
typedef unsigned short	u_int16_t;
typedef unsigned int	u_int32_t;
