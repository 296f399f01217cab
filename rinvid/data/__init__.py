"""Video data: decoding, probing, clips, and the embedded moving digits. Decoders load on first use."""

from rinvid.data.decode import read_clip
from rinvid.data.readers import VideoError, VideoInfo

__all__ = ["VideoError", "VideoInfo", "read_clip"]
