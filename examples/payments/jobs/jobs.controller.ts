import { Controller, Get, NotFoundException, Param, ParseUUIDPipe } from '@nestjs/common';
import { JobsService } from './jobs.service.js';

@Controller('jobs')
export class JobsController {
  constructor(private readonly jobs: JobsService) {}

  @Get(':id')
  async get(@Param('id', ParseUUIDPipe) id: string) {
    const job = await this.jobs.find(id);
    if (!job) throw new NotFoundException(`There is no job ${id}`);
    return { job_id: id, state: job.state, created_at: job.createdOn, completed_at: job.completedOn };
  }
}
