/* The types of a kernel's <sys/param.h> that the machine-dependent part of IPKDB needs. */
typedef unsigned char	u_char;
typedef unsigned char	u_int8_t;
typedef unsigned short	u_int16_t;
typedef unsigned int	u_int32_t;
