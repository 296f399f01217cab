"""Video data: decoding, probing, clips, and the embedded moving digits. Decoders load on first use."""

from rinvid.data.decode import VideoError, VideoInfo, read_clip

__all__ = ["VideoError", "VideoInfo", "read_clip"]
